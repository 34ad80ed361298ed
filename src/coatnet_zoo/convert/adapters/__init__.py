"""Third-party codebases: one file for each, which maps names and layouts of tensors."""
