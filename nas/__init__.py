"""Neural architecture search for vision backbones under multi-teacher distillation."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that imports nas decides where its log goes
