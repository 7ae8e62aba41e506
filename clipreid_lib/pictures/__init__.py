"""From rankings to pictures: galleries, pages, figures, heat maps, the browser."""
