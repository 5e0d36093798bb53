"""The drawn drill hits of ``hits-demo``, and more of the kind for sets that have records."""
