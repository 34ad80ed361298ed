"""Third-party codes: one file for each, which maps names and layouts of tensors."""
