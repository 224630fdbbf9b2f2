"""The machines of a node that belongs to a cluster. A node without a cluster does not import them."""
