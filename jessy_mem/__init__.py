"""jessy_mem"""
