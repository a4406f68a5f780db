"""All drawing: figures, animations and self-contained HTML reports from plain arrays. matplotlib loads when the first figure is drawn."""
