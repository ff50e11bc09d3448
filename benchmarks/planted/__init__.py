"""Problems whose right grouping is known, methods that look for it, and how they are measured."""
