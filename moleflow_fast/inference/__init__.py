"""From images to maps, scores and task ids."""
