"""Below `nas.storage.store`: where a study lies, transactions on its database, and which drivers are alive."""
