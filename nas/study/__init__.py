"""What a search is and decides: settings, records, decisions. No torch, no Ray, no storage."""
