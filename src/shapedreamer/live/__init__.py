"""The live page: a neural network dreams while you watch, on your server or in your browser."""
