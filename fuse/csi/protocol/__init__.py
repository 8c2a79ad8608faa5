"""The specification's messages, calls and codes, and what a request may hold. Touches no mount."""
