"""What is kept: artifact bytes and the database."""
