"""Formatting of text for people: amounts, tables, and safe output to terminals."""
