"""Amazon States Language: states shared by engines and workflows, and readers of whole definitions."""
