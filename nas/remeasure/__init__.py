"""Parts of ``nas.rerank``.

What chooses, compares and words (`selection`, `plane`, `agreement`, `comparison`, `wording`) knows no torch, so that a
report may use it.
"""
