"""Training: texts to windows of token ids, and transformers' Trainer over them. Needs the extra ``train``."""
