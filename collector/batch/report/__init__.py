"""Reports of a batch: a page, and files for CI servers, trace viewers and tables."""
