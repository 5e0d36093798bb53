"""Sub-commands of ``dsmoe-yolo``, one file each: arguments, help and printing."""
