"""Reinforcement: agents that learn by acting, or from records of acting."""

from tutelage.reinforcement.environments import make_environment
from tutelage.reinforcement.grid_world import GridWorld
from tutelage.reinforcement.image_body import ImageBody
from tutelage.reinforcement.replay import ReplayBuffer, Transitions
from tutelage.reinforcement.value_learning import DQNAgent, fitted_q_iteration
from tutelage.reinforcement.value_training import DQNHistory, Environment, train_dqn

__all__ = [
    "DQNAgent",
    "DQNHistory",
    "Environment",
    "GridWorld",
    "ImageBody",
    "ReplayBuffer",
    "Transitions",
    "fitted_q_iteration",
    "make_environment",
    "train_dqn",
]
