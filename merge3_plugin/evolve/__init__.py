"""Parents and cheap estimates to a better merged model."""
