"""An explicit-state model of the references between nodes: every order of events of a small world is tried."""
