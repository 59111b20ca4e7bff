"""Pictures, a file each; `screen_pictures` registers those of a screen."""
