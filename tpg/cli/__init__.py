"""The command line: thin verbs over the library, which itself never prints."""
