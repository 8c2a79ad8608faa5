"""How each ecosystem writes down what pods ask and hold: read into one record, and written back from it."""
