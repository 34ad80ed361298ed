"""Studies of layouts and of forms of attention, with their pictures: docs/design-space.md."""
