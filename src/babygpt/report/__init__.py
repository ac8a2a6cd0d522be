"""The verb `report`: run folders in, one page about them out."""
