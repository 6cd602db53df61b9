"""The commands, a file each; none imports torch when it is imported. `arguments` has what their command lines share."""
