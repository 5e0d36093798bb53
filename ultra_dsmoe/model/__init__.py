"""The nets as the host sees them: detector, options, criterion, text side, run-time settings."""
