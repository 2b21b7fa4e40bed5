"""What the program does today, recorded: numbers and settings that a change of its structure must not change."""
