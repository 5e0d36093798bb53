"""Look inside a trained detector: knock-outs and routing map, run as sub-commands of ``dsmoe-yolo``."""
