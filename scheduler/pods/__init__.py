"""What pods ask for, in hashable form: pods that ask for the same are one class."""
