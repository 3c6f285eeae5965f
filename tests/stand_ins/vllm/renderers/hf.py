"""Stands in for vLLM."""


def resolve_chat_template(tokenizer, chat_template, tools, *, model_config):
    return tokenizer.chat_template
