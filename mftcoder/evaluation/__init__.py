"""What a model can do: the loss of every task, and generation."""
