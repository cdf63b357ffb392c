"""Pictures for people: overlays, charts, reports, and what the network looks at."""
