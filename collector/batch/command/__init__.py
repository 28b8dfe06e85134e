"""Commands as jobs: templates, inputs, the child process, and what is printed of it."""
