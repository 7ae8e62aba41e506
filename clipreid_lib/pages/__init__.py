"""From rankings and numbers to pictures and pages: galleries, figures, heat maps, the browser, reports."""
