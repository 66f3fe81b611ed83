"""How well a model predicts and writes: perplexity, the quality of text past the window, and choices by likelihood."""
