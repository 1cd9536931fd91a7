"""An elastic ring: training continues when nodes join or leave."""
