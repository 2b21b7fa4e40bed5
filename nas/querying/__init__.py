"""What limits mean for one candidate."""
