"""Projects made from this template: what they get, and what git keeps of them. Stays in the template."""
