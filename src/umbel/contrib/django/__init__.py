"""What Django projects use; `umbel.fixups.django` is what makes an app one of Django's."""
