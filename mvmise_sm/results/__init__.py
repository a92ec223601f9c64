"""Results of fitted models; a result reaches its model through ``self.model`` and never imports one."""
