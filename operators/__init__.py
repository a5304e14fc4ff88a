"""What a person runs: the `headrace` command."""
