"""What training scripts share: recipes, cached clips, training views."""
