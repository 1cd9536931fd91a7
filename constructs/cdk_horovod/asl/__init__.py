"""Amazon States Language: the blocks that engines and workflows share, and how a whole definition is read and drawn."""
