"""More than one video and more than one machine. Ray is imported when it is asked for, never before."""
