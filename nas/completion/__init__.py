"""``backbone-nas completion bash``: print the script that completes commands, flags and choices in a shell."""
