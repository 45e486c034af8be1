"""From numbers and figures to files: building an artifact, text tables, LaTeX, the report, docs/.

Writing and laying out belong here. No number is computed and no panel drawn here.
"""
