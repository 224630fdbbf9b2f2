"""What programs call: remote functions, actors, init, get, wait."""
