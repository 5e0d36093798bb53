"""The generated boards of ``pcb-demo``."""
