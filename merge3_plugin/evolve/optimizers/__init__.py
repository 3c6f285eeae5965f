"""Search strategies behind one ask/tell contract; costs are minimised, and only their ranks matter."""
