"""Recipes: one runnable reproduction a system, named by its slug, read like the paper's experiment section."""
