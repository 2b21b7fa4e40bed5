"""What a search is, decides and keeps: records, decisions, the study in its storage. No torch, no ray."""
