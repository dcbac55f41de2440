"""What can be asked, what comes back, and what it means. Imports nothing else of Equipoise."""
